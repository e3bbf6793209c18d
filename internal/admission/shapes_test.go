package admission

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/podtoken/podtoken/internal/admission/reviews"
)

var (
	shapes    = reviews.Shapes()
	annotated = reviews.Annotations
	newPod    = reviews.Pod
)

func newReview(tb testing.TB, uid string, pod *corev1.Pod) []byte {
	tb.Helper()
	body, err := reviews.Review(uid, pod)
	if err != nil {
		tb.Fatal(err)
	}
	return body
}
