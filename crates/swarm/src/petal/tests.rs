//! Tables for each rule of a petal.
