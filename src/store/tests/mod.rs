//! Tests of the algorithms of several rooms of the store together.

mod simulation;
