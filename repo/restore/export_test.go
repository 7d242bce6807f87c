package restore

// SmallWindows makes windows so small that a tree of a few files has many.
func SmallWindows(o *Options) { o.items, o.refs = 3, 4 }

// Leftover is a name that a run may have left for a file.
func Leftover(name string) string { return tempPrefix() + "1" + digestOf(name) }
