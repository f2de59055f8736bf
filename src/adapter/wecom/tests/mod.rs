//! Tests of the adapter's pure parts against the frames that WeCom documents.

mod frames;
