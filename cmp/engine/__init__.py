"""Training that can be stopped, resumed and trusted, for any network; it knows no method."""
