"""One phase of training, which knows of no other."""
