"""Taking a run elsewhere: what is uploaded with a spec, and the scripts of schedulers that start it."""
