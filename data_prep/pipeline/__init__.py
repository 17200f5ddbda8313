"""What every source is made of: reading files, checking rows and images, writing the data set."""
