// Package cgroup runs programs in a memory cgroup and measures them. It does so on Linux only.
package cgroup
