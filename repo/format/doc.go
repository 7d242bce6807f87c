// Package format is the bytes of a repository's objects: their names, and what stands in each.
//
// It is pure, and holds every object of format 1 but packs, index segments, snapshots, audit logs and what holds secrets. What it decodes has
// one form: encoding it again gives the same bytes. Who may have signed an object is not its to judge. repo/FORMAT.md is the byte-exact text.
package format
