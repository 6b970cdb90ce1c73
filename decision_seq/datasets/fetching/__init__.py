"""Files from elsewhere: fetched whole or not at all."""
