"""How ranks come to run on this machine or a cluster, and how their end is told."""
