"""`penstock export`: what a desktop learned, as a LocalModel."""
