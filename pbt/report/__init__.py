"""Reports: what people see of a sweep, in the terminal and in pictures."""
