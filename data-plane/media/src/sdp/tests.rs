//! Tests of the parser and the writer.
