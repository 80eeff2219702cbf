"""Readers of files: from a file to rows with named columns. One file per family of formats."""
