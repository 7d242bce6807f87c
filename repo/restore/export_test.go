package restore

// SmallWindows makes windows so small that a tree of a few files has many.
func SmallWindows(o *Options) { o.items, o.refs = 3, 4 }
