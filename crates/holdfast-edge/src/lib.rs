//! `holdfast edge`: a thin balancer in front of the nodes, for those who have none.
