"""The web page: static files that are a client of the public API like any other.

`index.html` and plain ES modules under `js/`; `vendor/` holds a chart library as it was released, with its
licence. Nothing is built: what is here is what browsers get.
"""
