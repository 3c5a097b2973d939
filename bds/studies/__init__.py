"""Studies: which audits, fine-tunes and evaluations a spec stands for, and what their results say together."""
