//! The one place where adapters are chosen and the tree is started and stopped in order.
