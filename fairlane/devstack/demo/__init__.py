"""The demo: a minute of a real trace through the whole chain, watched, checked and reported."""
