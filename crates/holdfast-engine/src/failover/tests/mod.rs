//! Tables, properties.
