"""A local web page that shows a model's predictions."""

from ..images import MAX_PIXELS
from .app import MAX_UPLOAD, application
from .server import is_loopback, listen, serve, url_of

__all__ = ['MAX_PIXELS', 'MAX_UPLOAD', 'application', 'is_loopback', 'listen', 'serve', 'url_of']
