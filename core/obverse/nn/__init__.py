"""Building blocks shared by several systems."""
