"""Small models of every kind with golden hashes, to show that exact arithmetic is exact on this machine."""
