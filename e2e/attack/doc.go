// Package attack is what the tests of the suite attack with: requests that are written on the wire by hand (Caller), races of such
// requests with whatever takes the right to make them away (Race), connections that are held open (Hold), and the rows of the tables
// of attacks as data (TokenRequests, Declarations). It runs inside real pods, as a part of ./cmd/probe; what it reports is
// counts and claims, and a token only from Caller.RequestToken.
//
// # Which test shows what
//
// Races (finding 1): a request that is on its way while its right goes. Each one runs at the same time against a guard that lets go,
// which shows that the race meets the withdrawals.
//
//	RoleBinding, Role, both deleted by others       e2e TestRacesAgainstWithdrawals: deletedBySomebody
//	grant removed after the last pod                e2e TestRacesAgainstWithdrawals: removedByTheController
//	policy narrowed to nothing, namespace excluded  e2e TestRacesAgainstWithdrawals: takenByThePolicy
//	ServiceAccount re-created                       e2e TestRacesAgainstWithdrawals: accountMadeAnew
//	controller compromised                          e2e TestRacesAgainstWithdrawals: compromisedController
//	grant copied into another namespace             e2e TestRacesAgainstWithdrawals: copiedGrant
//	helm uninstall                                  e2e TestRacesAgainstWithdrawals: uninstalled
//	grant handed on, lent, frozen (no race)         e2e TestRacesAgainstWithdrawals: handedOn; hack/policies TestGrantsStay
//	the engine itself                               e2e/attack TestRaceFindsTheGuardThatLetsGo
//
// Token requests with a pod's credential: the rows of TokenRequests, in e2e TestGuard, which sends all of them a second time
// without the guard. A credential that was copied out of the pod: the same, copiedCredential. A guard on the disks of API servers:
// e2e TestStaticGuard.
//
// Declarations by hand: the rows of Declarations, in e2e TestDeclarationsByHand; reading them alone: internal/grant TestParseTokens.
//
//	arguments of a running pod changed              e2e TestPodsThatAreForged
//	annotations of a running pod changed            e2e TestEditedAnnotationsChangeNoGrant
//	two sidecars, a forged status, an own sidecar   e2e TestPodsThatAreForged
//	a pod that looks injected                       e2e TestForgedPodGainsNothing, TestDeclarationsByHand
//	mirror pods                                     e2e TestPodsThatAreForged
//	a pod by hand in kube-system                    e2e TestPodsThatAreForged; with annotations TestForgedPodGainsNothing
//	inject "false" with declarations                e2e TestDeclarationsByHand
//	widening a grant as a patcher of Roles          e2e TestPatchersWidenNoGrant
//	as the controller                               e2e TestControllerCanOnlyGrant
//	as the webhook                                  e2e TestWebhookHasNoRights
//	foreign objects in a grant's place              e2e TestForeignRoleIsLeftAlone; internal/grant TestForeignObjects
//	what others do to a grant                       e2e TestGrantIsRepaired; internal/grant TestWhatOthersDidIsPutRight
//	cost of pods, prefix in another case            e2e TestAttackCostOfPods, TestAttackPrefixInAnotherCase
//	forged pods in excluded namespaces              e2e TestAttackForgedPodInExcludedNamespace
//	ephemeral containers, presets in mode rbac      e2e TestAttackEphemeralContainers, TestAttackModeRBACByPreset
//
// Callers of the webhook that are no API servers (finding 3):
//
//	connections from pods, of every kind of Hold    e2e TestPodsCannotStopAdmission
//	every kind of connection, on the loopback       cmd/webhook TestStrangersStopNobody, TestThousandStrangers
//	without the API servers' client certificate     e2e TestClientCertificateOfAPIServers; cmd/webhook TestClientCertificates
//	the engine itself                               e2e/attack TestHold, TestHoldIsBounded
//
// Annotations, which the webhook refuses (unit tests; e2e TestDenialReachesTheUser shows that refusals arrive):
//
//	notify                                          pkg/mutate TestParseValues (notify), TestNotifyGoesNowhereElse;
//	                                                at the connection pkg/sidecar/notify TestOnlyLoopbackIsDialled
//	path, mount-path, file-mode, audience           pkg/mutate TestParseValues
//	mount-path of the API credential's directory    pkg/mutate TestGolden (deny-conflict-mount-path, deny-conflict-api-volume-mounted)
//	templates                                       pkg/tokenfile/compile TestRefusedTemplates, TestTemplatesThatAreAttacks, FuzzTemplate
//	audiences and lifetimes by the policy           internal/policy TestCheckRefuses, FuzzParse; e2e TestPolicyDenials
//
// The rest of the table:
//
//	tokens in logs, events, errors                  e2e TestNothingShowsAToken; internal/admission TestLogHasNothingOfThePod;
//	                                                pkg/sidecar TestSecretsCannotBePrinted; cmd/controller TestNoTokenInTheLog
//	redirects, proxies, CA, answers of the sidecar  internal/tokenrequest TestTheProxyOfTheEnvironmentIsNotUsed, TestEveryFaultOnTheWire,
//	                                                TestAnswersThatAreNotWhatWasAskedFor; pkg/tokensource TestTransportAndRedirects
//	links and traversal in the token directory      e2e TestWhatTheApplicationDoesToTheFilesIsUndone
//	images: user, mode, no other file               cluster.ReleaseImages checks each release
//
// What the guard must not break: e2e TestGuardLeavesOthersAlone, and all tests with pods.
package attack
