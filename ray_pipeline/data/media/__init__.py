"""Documents, images and videos as rows; `connector.CONNECTOR` is what `collect` reads them by."""
