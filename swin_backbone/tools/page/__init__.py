"""A local web page that shows what a config's model sees in an image."""

from ..images import MAX_PIXELS
from .app import MAX_UPLOAD, application
from .server import is_loopback, listen, serve, url_of

__all__ = ['MAX_PIXELS', 'MAX_UPLOAD', 'application', 'is_loopback', 'listen', 'serve', 'url_of']
