//! Fault injection, workloads and checkers for meshes of several nodes.
//!
//! A mesh has one node today, and the faults of one node (killed processes, damaged objects, full disks, repositories that
//! vanish) are injected where they are tested, in `tests/`. What needs more than one node begins here: the UDP relay
//! between nodes, the workloads, and the checker of the catalog's history.
