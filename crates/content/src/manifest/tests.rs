//! What is taken for a manifest, and what is not.
