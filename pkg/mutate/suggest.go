package mutate

import (
	"maps"
	"slices"
	"strings"

	"github.com/podtoken/podtoken/pkg/api"
)

// minAbbreviation is the length from which the beginning of a known key is taken for it.
const minAbbreviation = 3

// hint tells the author of the unknown key "<base>[.<token>]" what to write instead.
func hint(base, token string) string {
	got := strings.TrimPrefix(base, api.Prefix)
	nearest, distance := "", 1+len(got)/4
	for _, candidate := range slices.Sorted(maps.Keys(settings)) {
		known := strings.TrimPrefix(candidate, api.Prefix)
		if d := editDistance(got, known, distance); d < distance {
			nearest, distance = candidate, d
		}
		if nearest == "" && len(got) >= minAbbreviation && strings.HasPrefix(known, got) {
			nearest = candidate
		}
	}
	switch {
	case nearest == "":
		names := make([]string, 0, len(settings))
		for _, name := range slices.Sorted(maps.Keys(settings)) {
			names = append(names, name[len(api.Prefix):])
		}
		return "remove it; known are " + strings.Join(names, ", ")
	case settings[nearest] == podScope && token != "":
		return "did you mean " + nearest + " (it holds for the whole pod)?"
	case settings[nearest] == tokenScope && token == "":
		return "did you mean " + nearest + ".<token>?"
	case token != "":
		return "did you mean " + plain(nearest+"."+token) + "?"
	}
	return "did you mean " + nearest + "?"
}

// inLowerCase tells the author of a key whose prefix is in another case what to do.
func inLowerCase(key string) string {
	key = api.Prefix + key[len(api.Prefix):]
	if key == api.AnnotationStatus {
		return "remove it, podtoken sets " + key
	}
	return "use " + plain(key)
}

// editDistance is the Levenshtein distance of two ASCII texts, or the limit when it is not less than that.
func editDistance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substituted := diagonal
			if a[i] != b[j] {
				substituted++
			}
			diagonal = row[j+1]
			row[j+1] = min(substituted, row[j]+1, row[j+1]+1)
		}
	}
	return min(row[len(b)], limit)
}
