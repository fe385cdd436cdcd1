"""The demo: one server, real tasks taught one after another over HTTP, baselines, a picture."""
