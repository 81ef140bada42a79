// What today's packages want of a JavaScript engine and node 20 does not have. Imported first.

Promise.withResolvers ??= function () {
    let resolve, reject;
    const promise = new this((yes, no) => {
        resolve = yes;
        reject = no;
    });
    return { promise, resolve, reject };
};
