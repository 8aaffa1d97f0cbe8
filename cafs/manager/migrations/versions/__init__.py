"""One module for each step. One that was released is never changed."""
