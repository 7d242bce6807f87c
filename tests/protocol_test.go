package tests

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestProtocolModel explores the model of commit, prune, replication, forget and undelete: what must hold does, every step that it can leave out is
// needed, and docs/protocol.md names each of these.
func TestProtocolModel(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil {
		lacks(t, "the model is a program for python3: %v", err)
	}
	args := []string{"../docs/protocol/prune_protocol.py", "check"}
	if os.Getenv("PACKHOLD_SOAK") != "" {
		args = append(args, "more")
	}
	out, err := exec.Command(python, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	doc, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	steps := regexp.MustCompile(`break=(\w+) .* breaks: `).FindAllStringSubmatch(string(out), -1)
	for _, m := range steps {
		if !strings.Contains(string(doc), "`"+m[1]+"`") {
			t.Errorf("docs/protocol.md does not say that %s is needed", m[1])
		}
	}
	if len(steps) < 25 || strings.Count(string(out), " holds ") < 15 {
		t.Errorf("explored less than it should:\n%s", out)
	}
}
