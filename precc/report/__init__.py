"""Reports: what people read about a net."""
