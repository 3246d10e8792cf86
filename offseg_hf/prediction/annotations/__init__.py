"""Label maps → files that labelling tools import, so that a person corrects what a model predicts."""
