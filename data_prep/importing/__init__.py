"""`python -m data_prep import FILE`: recognizes a file of annotations, says what it takes it for, and converts it."""
