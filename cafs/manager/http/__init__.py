"""REST: requests in, answers and problem documents out (FastAPI)."""
