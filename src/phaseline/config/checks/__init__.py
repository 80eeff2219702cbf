"""Rules that span settings, one function each; `cross_checks` collects them."""
