//! Tests of offer/answer through the edge.
