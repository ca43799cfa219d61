//! A scripted Docker Hub.

fn main() {}
