package grant

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// expectationLimit is how long the cache may take to show what was written. After that something else has happened, as
// a deletion that the cache put together with the creation before it.
const expectationLimit = time.Second

// expectation is what the cache must show of one object before it can be judged by: our own last write. Without it each
// write would be followed by one or two more of the same, made before the cache knows of the first.
type expectation struct {
	version string    // that was written
	gone    types.UID // that was deleted
	until   time.Time
}

func expectVersion(version *string) expectation {
	if version == nil {
		return expectation{}
	}
	return expectation{version: *version, until: time.Now().Add(expectationLimit)}
}

func expectGone(uid types.UID) expectation {
	return expectation{gone: uid, until: time.Now().Add(expectationLimit)}
}

// met tells whether the cache shows what was written, or should have. there tells whether the object exists.
func (e expectation) met(object metav1.Object, there bool, now time.Time) bool {
	switch {
	case !now.Before(e.until):
		return true
	case e.gone != "":
		return !there || object.GetUID() != e.gone
	case !there:
		return false
	}
	// Versions that cannot be compared are not waited for.
	order, err := resourceversion.CompareResourceVersion(object.GetResourceVersion(), e.version)
	return err != nil || order >= 0
}
