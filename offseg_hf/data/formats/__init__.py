"""What labelling tools write: one file per format that reads it into the records of `records.py`."""
