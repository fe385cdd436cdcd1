"""ASGI layers in front of the routes: gateway, admission, delayed rejection, metrics."""
