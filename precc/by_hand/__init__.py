"""precc's arithmetic without a net. Beside `precc.api` the only part of the package that calls a backend itself."""
