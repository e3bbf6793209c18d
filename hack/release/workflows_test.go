package release

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// pinned is an action at a commit, with the version that people know it by.
var pinned = regexp.MustCompile(`^actions/[a-z-]+@[0-9a-f]{40} # v[0-9]+\.[0-9]+\.[0-9]+$`)

// TestWorkflowsGetNoMoreThanTheyNeed: actions are at a commit, since tags move; permissions are said, since the default may be
// everything; and there is no secret but the token of the run itself.
func TestWorkflowsGetNoMoreThanTheyNeed(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, ".github", "workflows", "*"))
	if err != nil || len(files) < 2 {
		t.Fatalf("got the workflows %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text := string(read(t, file))
			var workflow struct {
				Permissions map[string]string `json:"permissions"`
				Jobs        map[string]struct {
					Permissions map[string]string `json:"permissions"`
					Steps       []struct {
						Uses string         `json:"uses"`
						With map[string]any `json:"with"`
					} `json:"steps"`
				} `json:"jobs"`
			}
			if err := yaml.Unmarshal([]byte(text), &workflow); err != nil {
				t.Fatal(err)
			}
			if workflow.Permissions == nil || len(workflow.Jobs) == 0 {
				t.Error("says no permissions, or has no jobs")
			}
			allowed := func(permissions map[string]string, runsCode bool) {
				for name, access := range permissions {
					if name != "contents" || access != "read" && runsCode {
						t.Errorf("permission %s: %s", name, access)
					}
				}
			}
			allowed(workflow.Permissions, true)
			for name, job := range workflow.Jobs {
				checksOut := false
				for _, step := range job.Steps {
					if strings.HasPrefix(step.Uses, "actions/checkout@") {
						checksOut = true
						if step.With["persist-credentials"] != false {
							t.Errorf("job %s leaves its token in the checkout", name)
						}
					}
				}
				allowed(job.Permissions, checksOut)
			}
			for _, line := range strings.Split(text, "\n") {
				if _, uses, ok := strings.Cut(line, "uses: "); ok && !pinned.MatchString(uses) {
					t.Errorf("%q is not pinned to a commit, with its version", uses)
				}
				if strings.Contains(line, "secrets.") || strings.Contains(line, "pull_request_target") {
					t.Errorf("not in this repository: %s", strings.TrimSpace(line))
				}
			}
		})
	}
}
