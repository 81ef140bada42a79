// What Element is refused in this scenario and has to be, and what it says on its console of it. All
// else fails the test.

/** Refused requests: method, path, status and errcode; and why that is right. */
export const REFUSED = [
    [/^GET \/_matrix\/client\/v3\/room_keys\/version: 404 M_NOT_FOUND$/, "there is no backup yet"],
    [/^GET .*\/unstable\/org\.matrix\.msc4143\/rtc\/transports: 404 M_UNRECOGNIZED$/, "calls need a server of their own"],
    [/^GET .*\/thirdparty\/user\/im\.vector\.protocol\.sip_virtual: 404 M_UNRECOGNIZED$/, "no way into telephones"],
    [/^GET \/_synapse\/admin\/v1\/users\/\{user\}\/admin: 404 M_UNRECOGNIZED$/, "this is not Synapse"],
    [/^GET .*\/rooms\/\{room\}\/members: 403 M_FORBIDDEN$/, "who is invited and not in the room yet sees nobody"],
    [/^POST .*\/v3\/register: 401 $/, "what the person has to prove is asked for so"],
    [/^POST .*\/keys\/device_signing\/upload: 401 $/, "the same"],
    [/^GET .*\/dehydrated_device: 404 M_(UNRECOGNIZED|NOT_FOUND)$/, "no device is kept that is no device"],
    [/^POST .*\/(receipt\/m\.read\/\{event\}|read_markers): 401 M_UNKNOWN_TOKEN$/, "sent behind the sign-out, of what was read just before"],
];

/** Lines of the console, and why they are right. */
export const COMPLAINTS = [
    [/^Error sending (receipt|fully_read) .*M_UNKNOWN_TOKEN/, "of what was read just before the sign-out"],
    [/^Unable to refresh token - no refresh token/, "of the same"],
    [/^Failed to load resource: the server responded with a status of 4/, "each is looked at as a refused request"],
    [/^not caught: ReferenceError: Cannot access '.*' before initialization/, "modules of the UI import each other in a circle"],
    [/^Warning! Not using an encryption key for rust crypto store/, "the app gives the engine no key for its database"],
    [
        /^asked somebody else: https:\/\/bahw[a-z0-9]+\/\.well-known\/matrix\/client$/,
        "the engine looks every server name up, whatever it is told; it is no name of a host",
    ],
    [/^(Failed to load resource: net::ERR_NAME_NOT_RESOLVED|No response or error when parsing .well-known|Failed to fetch)/, "of that look-up"],
    [/M_FORBIDDEN: MatrixError: \[403\] no such room, or you are not in it .*\/members/, "of the invite"],
    [/^Error sending receipt .*Cannot set read receipt to a pending event/, "the UI is too quick for its engine"],
];
