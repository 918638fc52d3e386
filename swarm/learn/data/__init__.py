"""The data that the embedded reader learns from: made from installed sources and generated records."""
