"""Results of an evaluation in the file formats of other tools, without a word of prompts and answers."""
