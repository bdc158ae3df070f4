"""The corpus of bad input, its mutations, the oracle that says what each must get, and the run that compares."""
