"""Events of the audit trail, each with its message id.

The ids never change: journalctl(1) MESSAGE_ID=… finds an event by it, and the message catalog
(debian/catalog, `journalctl -x`) explains it. Writers without Python repeat theirs.
"""

MESSAGE_IDS = {
    # the stop
    "initiated": "61a26058649e42259b952abec9b0d534",
    "latched": "a7810d5281b9469fb4a33dbf9c3fe82f",
    "stopped": "ed31d901c32440ad9ab064194f84f6d9",
    "living": "ae240fa36bc14b2b97cb1a1660ef8eb5",
    "activated": "a3b8e6d05e064f38a060d4988d82c7fb",
    "complete": "57e1f9dd6a4b46cb806deea0e6a1d125",
    "incomplete": "a09c8bfbaa2640718f6b992912a316c1",
    "repeated": "1d0407aea0234b4d92166438b4ee60ab",
    # while latched
    "refused": "f3d0ed7cb2a84f54997066edac06736a",
    "restored": "754693a0d535423a895c293074d1a9fe",
    # the release
    "release-initiated": "ac58368cb9ec4490b72ce76dbd46cd8d",
    "unlatched": "fb26ea7755714275b671634a287b38c9",
    "started": "c7a3c8b0f0e04b8d90ade93c6e7c2058",
    "released": "8cfe05267c3d47e49e0a79cc0f55c78d",
    "release-superseded": "378f38debe6147acb32003a06ee51c60",
    "release-failed": "e85c4a122f6c46ca8b206c27811b8357",
    # Redis
    "marker-set": "7da90cf473994678b3e4adefdedf41ca",
    "marker-cleared": "384d635bcc914ee8ac847b30cf8d5b05",
    "marker-pending": "14e40e96ac0a412087e654d3b42098db",
    "marker-renewed": "29cc6e1b4b954f4fbde8179ce52fd43d",
    # the guard
    "guard-started": "1cb25fc38e1a401b931166e5ef6bd67d",
    "guard-shadow": "733004ef040d45519a39cd5c7a51c5d2",
    "guard-joined": "8cbca9d259d648b2be0e46d450752f77",
    "guard-warning": "903fc718661f43d0a74308f1217912af",
    "guard-released": "061f0ed34b6944fb81106445ce6f590e",
    "guard-anew": "a40fa3d781c642fb96e5c398ec4c3144",
    "guard-ended": "201edf58ef28474c9c9edc52cc30ad3c",
    "guard-died": "11921fbbd8904bd8a7f577da6febc46e",
    "guard-stopped": "cfa2f3f0f0dd42eea2833e9368f32510",
    "override": "de27e6c9416949f6bcdf60539f7faef2",
    # hooks and notifications
    "hook-done": "cbeb600e62fa407f8dfe35894221f4e0",
    "hook-failed": "07b7f8dbdf4b4cc6bcfe93953050b4b5",
    "notified": "e8aa48eb46c648f38089d224a47b8d2e",
    "notify-failed": "12c7bca972e54336a2a8a5968344b11c",
    # whatever a drill logs
    "drill": "dc52e5e7c7a94c7d9a0ac0c4c6b2a9e1",
}
