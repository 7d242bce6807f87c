package pick

import (
	"testing"

	"packhold/repo/snapshot"
)

func TestDescend(t *testing.T) {
	for _, c := range []struct {
		patterns []string
		dir      string
		want     bool
	}{
		{[]string{"/etc/nginx"}, "/etc", true},
		{[]string{"/etc/nginx"}, "/etc/nginx", true},
		{[]string{"/etc/nginx"}, "/etc/nginx2", false},
		{[]string{"/etc/nginx/"}, "/usr", false},
		{[]string{"/etc/nginx", "/usr/bin"}, "/usr", true},
		{[]string{"/etc/ng*"}, "/etc", true},
		{[]string{"/etc/ng*"}, "/etc/nginx", true},
		{[]string{"/etc/ng*"}, "/usr", false},
		{[]string{"/etc/**/x"}, "/etc/a/b", true},
		{[]string{"/etc/**/x"}, "/home", false},
		{[]string{"/*/x"}, "/home", true},
		{[]string{"/etc/x", "!/home/y"}, "/home", false},
		{[]string{"/etc/../usr/x"}, "/usr", true},
	} {
		if got := Descend(c.patterns)(c.dir); got != c.want {
			t.Errorf("%q, %s: %v", c.patterns, c.dir, got)
		}
	}
	for _, all := range [][]string{nil, {"*.txt"}, {"/etc", "nginx"}, {"!x"}} {
		if Descend(all) != nil {
			t.Errorf("%q leaves directories out", all)
		}
	}
}

func TestKept(t *testing.T) {
	kept, err := Kept(&snapshot.Body{Excludes: []string{"*.tmp", "/d/cache/"}, Skipped: []snapshot.SkippedItem{{Path: "/d/secret"}}})
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]bool{"/d/a.tmp": true, "/d/a": false, "/d/cache": true, "/d/secret": true, "/d/secret/x": true, "/d/secrets": false, "/": false} {
		if kept(p, true) != want {
			t.Errorf("%s: %v", p, !want)
		}
	}
	if _, err := Kept(&snapshot.Body{Excludes: []string{"["}}); err == nil {
		t.Error("an invalid pattern is taken")
	}
}
