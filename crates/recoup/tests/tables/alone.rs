//! What is left alone, and what happens to those who wait when the one who fences dies.
